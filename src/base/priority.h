/* Whose turn it is on a processor that several threads want. A program has threads that answer somebody, and threads
 * that work ahead or behind (signing, blinding, looking at evidence); on a full machine the first go first, so that a
 * reply does not wait for a millisecond of somebody else's arithmetic. Both calls are of the calling thread alone, need
 * no right, and are best effort: a kernel or a sandbox that says no leaves things as they were.
 *
 * Source: sched_setattr(2); Documentation/scheduler/sched-eevdf.rst. Since Linux 6.12 a thread may ask for shorter
 * turns than others have (0.7 ms and more), and when it wakes up it interrupts one whose turn is longer. Threads
 * inherit both settings from the one that starts them. */
#ifndef ST_BASE_PRIORITY_H
#define ST_BASE_PRIORITY_H

/* For event loops: short turns, and soon. */
void st_priority_answer(void);
/* For work that nobody waits for: what is left over, a tenth when others want all, in turns of ordinary length. */
void st_priority_background(void);

#endif
