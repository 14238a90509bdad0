// Package reach finds what the roots of a store reach: the mark of a round of garbage
// collection.
//
// Roots are pins, and every commit that is there. A Mark is of one domain, and reads only
// what can name something of that domain (see Scope): so a tenant whose keys are not here
// stops the rounds of its own domain, and no other's.
package reach
