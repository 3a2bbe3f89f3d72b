// Package policy decides what a caller may scan. It is pure: engagements, callers, answers of
// name servers, facts of the machine and the time are arguments, and the answer is a value
// that carries its reason. Nothing is read, logged or looked up here.
//
// An operator authorises work by an engagement, a file that [ParseEngagement] reads.
// [Precheck] judges a request before any name of it is asked for, [Decide] judges it when each
// name has its answers, and decides again, on the same answers, whenever something may have
// changed. [Gate] lets what was allowed begin in fair order.
//
// Denial is the default. One job is under one engagement: permissions of several are not put
// together. Exclusions win over everything, and what the package holds to be never a target is
// carved out of wider targets as they are.
package policy
