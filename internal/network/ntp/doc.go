// Package ntp sets the system clock by the servers that the network and the owner name. The exchange
// of packets is beevik/ntp's; whom to ask, when, and whom to believe is ours.
//
// # Whom to believe
//
// NTP as it is used on the Internet is not signed: an answer is a claim. What a claim may do depends
// on who agrees with it. Servers agree if they tell the same time within a second; those that do must
// be more than half of all that answered.
//
//   - Never earlier than Floor, never later than 25 years after Build: such a claim does not count.
//   - By up to 15 minutes the clock is set whoever agrees, were it one server alone. That keeps a clock
//     right, and certificates and schedules bear it. A server that moves its time by so much with every
//     question is followed: where it is the only one, nobody can tell.
//   - By more only if three agree. One server with a broken or forged time then changes nothing.
//   - But the first time after a boot, a majority is enough, were it the one server that the DHCP server
//     of a closed network names. The clock then shows the floor or what a board's clock with an old
//     battery shows, it is known to be wrong, and to insist on three would leave such a network without
//     time for ever. The floor still holds, and the state says that nobody has verified it. "After a
//     boot" is what the kernel remembers, so that it is no way back in to make this service crash.
//   - What was once agreed goes on by the monotonic clock, which nobody can set. If a server still says
//     the same by that measure, then it is the system clock that was set wrong, by whomever, and it is
//     set right, however far it is off.
//
// Who controls the DHCP server controls the way to all other servers as well, so this is no defence
// against him; he is held by the floor, by the check that Verify makes, and by the state shown. But a
// DHCP server that names a broken NTP server is common: no more than three of its servers are asked, so
// that they do not outvote the four of the owner's pool.
//
// # How the clock is set
//
// Less than 400 ms are slewed by the kernel, at 0.5 ms a second, so no second is shorter or longer than
// anybody notices; between two questions a quartz drifts by less. The rest is a step. A leap second is
// a step as well, by the next question.
//
// All of our own times are monotonic. Servers are compared on a scale of time of our own that starts
// with Run and goes by the monotonic clock: it does not matter who sets the system clock meanwhile.
package ntp
