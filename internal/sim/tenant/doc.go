// Package tenant is the sealed tenant of a simulation: the provider of its keys, which goes
// away or refuses for a while, the keys with which the model reads what hosts wrote, and the
// check that nothing of it is in the store in clear.
//
// All methods may be called concurrently. The lock of a Provider is held over nothing else.
package tenant
