// Package hardware is the simulated machine on which a host runs: its power, its disk, its
// clocks, and its way to the store. Package sim runs several of them, and is the only caller.
//
//   - A Machine is off until Start, and begins another life after each crash. A life that is
//     over changes nothing any more: its writes go to a disk that nobody will see again, its
//     requests find no power.
//   - The disk keeps, beside what the host sees, what would be there after the power went:
//     what was not synced is kept, lost or torn. A failed sync gives up what it covered.
//   - The link to the store fails requests before or after their effect, lets them take
//     effect twice or hours later, and is cut. What a request meets is drawn from what it
//     asks for, and how often that was asked before.
//
// The package knows nothing of volumes, nor of what has to be true: it tells its World what
// happens, and the World asks it for troubles. Everything takes virtual time.
//
// Lock: Machine.mu is held during World.Lost and World.Buried, and during what IfAlive
// calls. World's own locks come after it.
package hardware
