/* The protocol of onetoken: N replicas, one environment, one Redis, one token endpoint. README.md beside this file says
 * what is left out, and which code each step stands for.
 *
 * Whatever is between two steps of a process may take any time: a paused replica is one that isn't scheduled. A script is
 * one step. A fault is a budget, spent at any moment; -D sets it. A -D that starts with NO_ or says a wrong order leaves
 * one rule out: the check script wants a violation found then. */

#ifndef N
#define N 2             /* replicas */
#endif
#ifndef LIVES
#define LIVES 0         /* tokens that expire */
#endif
#ifndef MORE
#define MORE 0          /* refreshes ahead of the end, or after a 401: a token above the one at hand */
#endif
#ifndef REFRESH
#define REFRESH 0       /* explicit refreshes */
#endif
#ifndef INVALIDATE
#define INVALIDATE 0    /* invalidations, of one version or of all so far */
#endif
#ifndef FAIL
#define FAIL 0          /* failures that the endpoint answers with */
#endif
#ifndef UNREACHABLE
#define UNREACHABLE 0   /* failures to reach it */
#endif
#ifndef EXPIRE
#define EXPIRE 0        /* leases that run out under a holder that lives (paused, or cut off) */
#endif
#ifndef LOSE
#define LOSE 0          /* replies of Redis lost, the script having run or not */
#endif
#ifndef CRASH
#define CRASH 0         /* replicas that end and start anew */
#endif
#ifndef EVICT
#define EVICT 0         /* single keys that vanish from Redis */
#endif
#ifndef FLUSH
#define FLUSH 0         /* Redis forgets everything */
#endif
#ifndef FAILOVER
#define FAILOVER 0      /* Redis forgets the last write */
#endif
#ifdef CLOCK_BACK       /* with FLUSH: and its clock is set back */
#define NOW 6
#else
#define NOW 0
#endif

/* Redis. Version 0: there is none. Its clock is as old as the last version that was issued. */
byte now = NOW;
byte token, issued, stored, dropped, failure, lock;
bit backoff;                            /* the failure's backoff is running, and binds all */
#if FAILOVER
byte token1, issued1, stored1, dropped1, failure1, lock1; /* before the last write */
bit backoff1;
#endif

/* The replicas. */
byte snap[N];                           /* the snapshot's version; 0: none */
bit stood[N];                           /* it is known to have stood in Redis */
byte drop[N];                           /* Env.dropped */
bit hold[N];                            /* holds back by itself */
bit news[N];                            /* has an event, or a turn of the sweep, to look after */
byte lease[N];                          /* the lock value that it believes to hold */
bit calling[N];                         /* its request is under way */
byte late[N];                           /* a write of unknown outcome, which is run again behind the callers */
byte kept[N];                           /* the lease that goes with it */
byte late_release[N];                   /* a release that Redis runs later than its sender thinks */
/* Whether something was published here (p) or an invalidation learnt (d) since the flight's read (f), the look's read (l)
 * or the attempt's version (a): this is how the code's comparisons of instants are told. */
bit pf[N], pl[N], pa[N], df[N], dl[N];
bit uf[N], ul[N], ua[N];                /* such a read, look, attempt is under way */

/* Budgets. */
byte lives = LIVES, more = MORE, refresh = REFRESH, invalidate = INVALIDATE, fails = FAIL, unreachable = UNREACHABLE,
	expire = EXPIRE, lose = LOSE, crash = CRASH, evict = EVICT, flush = FLUSH, failover = FAILOVER;

/* What only the properties look at, but for ended. */
int ended;                              /* versions whose life is over */
int given;                              /* versions that were issued */
int written, counted;                   /* tokens stored, and failures, that nothing has taken away since */
bit taken[N];                           /* a fault has taken the lease away */
bit forgot;                             /* Redis has lost (part of) its history */
bit crashed[N];                         /* a look that was under way is nobody's */
byte seen[N];                           /* the highest invalidation that it has read */
byte calls;

#define BIT(v)     (1 << (v))
#define usable(i)  (snap[i] != 0 && !(ended & BIT(snap[i])))
#define max(a, b)  ((a) > (b) -> (a) : (b))
#define alone_but_for_taken(j) (j == i || !calling[j] || taken[j])

/* --- scripts: each runs whole --- */

inline keep() { /* before a write: what a replica of Redis that lags one write behind has */
#if FAILOVER
	if
	:: failover > 0 -> token1 = token; issued1 = issued; stored1 = stored; dropped1 = dropped; failure1 = failure;
		lock1 = lock; backoff1 = backoff
	:: else
	fi
#endif
	skip
}

#define publish_event() news[0] = 1; news[1] = 1; news[N - 1] = 1

mtype = { none, ok, older, is_dropped, expired, unknown };

inline put(v, res) {
#ifndef NO_OWN_VERSION
	highest = max(stored, token);
#else
	highest = stored;
#endif
	if
#ifndef NO_DROPPED
	:: v <= dropped -> res = is_dropped
#else
	:: false
#endif
	:: else ->
		if
#ifndef NO_STORED
		:: v < highest -> res = older
#endif
#ifndef NO_SAME_TOKEN
		:: v == highest && token == v -> res = ok
#endif
		:: else ->
			if
			:: ended & BIT(v) -> res = expired
			:: else ->
				/* A late writer overwrites nothing newer, and brings nothing back that was invalidated. */
				assert(v >= token && (v >= stored || forgot) && v > dropped);
				assert(!(written & BIT(v)));            /* it counts once */
				written = written | BIT(v);
				counted = counted & ~BIT(failure);
				keep();
				stored = v; issued = max(issued, v); token = v; failure = 0; backoff = 0;
				publish_event();
				res = ok
			fi
		fi
	fi;
	highest = 0
}

inline fail(v, alone, res) {
#ifndef NO_OWN_VERSION_FAILURE
	highest = max(stored, token);
#else
	highest = stored;
#endif
	if
#ifndef NO_STORED_FAILURE
	:: v <= highest -> res = older
#else
	:: false
#endif
	:: else ->
		if
#ifndef NO_SAME_FAILURE
		:: failure == v -> res = ok
#endif
		:: v < failure && failure <= issued -> res = older
		:: alone && failure != 0 && failure != v && backoff -> res = older
		:: else ->
			assert(v > stored);                     /* a token ends the failures before it */
			assert(v > token);                      /* also where the mark was evicted */
			assert(!(counted & BIT(v)));            /* it counts once: the backoff isn't begun anew */
			counted = counted | BIT(v);
			keep();
			failure = v; backoff = !alone;
			publish_event();
			res = ok
		fi
	fi;
	highest = 0
}

/* --- a replica --- */

/* publishLocked: v is what callers get, unless a newer one is usable and Redis hasn't lost its history. s: it is known to
 * have stood there. */
inline publish(i, v, s, lost) {
	if
#ifndef NO_DROPPED_HERE
	:: v <= drop[i]
#else
	:: false
#endif
	:: else ->
		if
		:: snap[i] == v ->
			if
			:: s && !stood[i] -> stood[i] = 1;
#ifndef NO_STORED_SINCE
				pf[i] = uf[i]; pl[i] = ul[i]; pa[i] = ua[i] /* what was read before says nothing of it */
#endif
			:: else
			fi
#ifndef NO_CAS
		:: snap[i] > v && usable(i) && !(lost)
#endif
		:: else ->
			assert(v > snap[i] || !usable(i) || forgot); /* while usable, a snapshot only grows */
			snap[i] = v; stood[i] = s; pf[i] = uf[i]; pl[i] = ul[i]; pa[i] = ua[i];
			if
			:: usable(i) -> hold[i] = 0
			:: else
			fi
		fi
	fi;
	assert(!usable(i) || snap[i] > seen[i]) /* what was invalidated, and read to be, isn't handed out */
}

/* observe takes in a read: p and d are the bits of what happened here since it was sent. */
inline observe(i, t, iss, sto, d0, p, d) {
	seen[i] = max(seen[i], d0);
	if
#ifndef NO_DROP_RESET
	:: !d && iss < drop[i] -> assert(forgot); drop[i] = 0; seen[i] = 0
#endif
	:: else
	fi;
	if
	:: d0 > drop[i] -> drop[i] = d0; df[i] = uf[i]; dl[i] = ul[i]
	:: else
	fi;
	if
#ifndef NO_DROPPED_HERE
	:: snap[i] != 0 && snap[i] <= drop[i] -> snap[i] = 0; stood[i] = 0
#endif
	:: else
	fi;
	if
#if defined(NO_LOST)
	:: t > d0 -> publish(i, t, true, false)
#elif defined(NO_LOST_STORE)
	:: t > d0 -> publish(i, t, true, !p && iss < snap[i])
#elif defined(NO_SENT_ORDER)
	:: t > d0 -> publish(i, t, true, iss < snap[i] || stood[i] && sto < snap[i])
#else
	:: t > d0 -> publish(i, t, true, !p && (iss < snap[i] || stood[i] && sto < snap[i]))
#endif
	:: else
	fi
}

/* give_back deletes the key of a lease if that holds the attempt's value. */
inline give_back(i, l) {
	if
	:: l == 0
	:: l != 0 ->
#ifndef NO_OWNER
		if
		:: lock == l -> keep(); lock = 0
		:: else
		fi
#else
		lock = 0
#endif
	:: l != 0 && lose > 0 && late_release[i] == 0 -> lose--; late_release[i] = l
	fi;
	l = 0
}

inline release(i) { give_back(i, lease[i]); taken[i] = 0 }

proctype Replica(byte i) {
	byte rtoken, rissued, rstored, rdropped, rfailure, rlock; bit rbackoff, rhold; /* as read */
	byte above, v, tries, highest, call_failure, call_now, call_snap; bit explicit, alone;
	mtype res = none;

end_idle: /* whoever has no usable token asks for one: a run can't end without */
	atomic {
		if
		:: !usable(i)
		:: usable(i) && more > 0 -> more--; above = snap[i]
		:: refresh > 0 -> refresh--; explicit = 1; above = snap[i];
			call_failure = failure; call_now = now; call_snap = snap[i]
		fi
	}
read:
	atomic {
		rtoken = token; rissued = issued; rstored = stored; rdropped = dropped; rfailure = failure; rbackoff = backoff; rlock = lock;
		uf[i] = 1
	}
	atomic { /* observe, view, decide; and, if so decided, the lease is tried */
		observe(i, rtoken, rissued, rstored, rdropped, pf[i], df[i]);
		uf[i] = 0; pf[i] = 0; df[i] = 0; rstored = 0;
		if
		:: rissued < above && rtoken < above -> above = 0 /* Redis lost its history */
		:: else
		fi;
		if
		:: explicit && above == 0 && rtoken != 0 && rtoken <= call_now -> above = rtoken
		:: else
		fi;
		if
		:: usable(i) && snap[i] > above && (!explicit || rtoken > above && rtoken > rdropped) -> goto served
		:: else
		fi;
		if
		:: rtoken > rdropped && rtoken > above -> /* ended or dropped here meanwhile: pass it over */
			above = rtoken; goto read
		:: else
		fi;
		rissued = 0; rdropped = 0; rhold = hold[i];
		if
		:: rbackoff && !(explicit && rfailure == call_failure) -> goto answered
		:: else
		fi;
		if
		:: rlock != 0 -> goto wait
		:: else
		fi;
		if
		:: rhold && !explicit -> goto answered
		:: else
		fi;
		if
		:: lock != 0 -> rlock = lock; goto wait
		:: else ->
			keep();
			lock = 1 + 3 * i;
#ifndef SAME_VALUE
			do                                      /* unlike that of its attempts before */
			:: late_release[i] == lock || kept[i] == lock -> lock++
			:: else -> break
			od;
#endif
			if
			:: lose > 0 -> lose--; rlock = lock; goto wait /* taken, and not known: nobody's until it runs out */
			:: true -> lease[i] = lock
			fi
		fi
	}
issue: /* and the request is sent */
	atomic {
		if
		:: crash > 0 -> crash--; goto dead
		:: true
		fi;
		if
		:: false
#ifndef NO_LOCK_CHECK
		:: lock != lease[i] -> goto again
#endif
#ifndef NO_TOKEN_CHECK
		:: token != rtoken -> goto again
#endif
#ifndef NO_FAILURE_CHECK
		:: failure != rfailure -> goto again
#endif
		:: else ->
			now++;
			keep();
#ifndef NO_TIME
			issued = max(max(max(issued, stored), max(dropped, token)) + 1, now);
#else
			issued = max(max(issued, stored), max(dropped, token)) + 1;
#endif
			v = issued;
			assert(!(given & BIT(v)));              /* no version is issued twice */
			given = given | BIT(v);
			if
			:: lose > 0 -> lose--; v = 0; goto issue /* the client sends it again by itself */
			:: lose > 0 -> lose--; v = 0; goto again
			:: true
			fi;
			assert(!taken[i]);                      /* issued under the lease */
			assert(token <= above);                 /* not while Redis has a token that would have done */
			assert(!backoff || explicit && failure == call_failure); /* not inside a backoff, but for a refresh */
			/* One request at a time, but where a fault has taken the other's lease away. */
			assert(alone_but_for_taken(0) && alone_but_for_taken(1) && alone_but_for_taken(N - 1));
			calling[i] = 1; ua[i] = 1; rtoken = 0; rfailure = 0; rlock = 0; rbackoff = 0; rhold = 0;
#ifdef COUNT
			calls++;
			assert(calls <= 1 + LIVES - lives);     /* one request in a life */
#endif
		fi
	}
#ifdef RELEASE_EARLY
	atomic { calling[i] = 0; release(i) }
#endif
	atomic { /* the answer */
		calling[i] = 0;
		if
		:: true -> goto storing
		:: fails > 0 -> fails--; goto failing
		:: unreachable > 0 -> unreachable--; alone = 1; release(i)
		:: crash > 0 -> crash--; goto dead
		fi
	}
failing:
	atomic {
		if
		:: fail(v, alone, res)
		:: lose > 0 -> lose--; tries++; fail(v, alone, res); res = unknown
		:: lose > 0 -> lose--; tries++; res = unknown
		fi;
		if
		:: res == unknown && tries < 2 -> goto failing
		:: else
		fi;
	}
	atomic {
		release(i);
		if
		:: res == older && !alone -> goto again
		:: res == unknown || alone -> hold[i] = 1
		:: else
		fi;
		goto answered
	}
storing:
	atomic {
		if
		:: put(v, res)
		:: lose > 0 -> lose--; tries++; put(v, res); res = unknown
		:: lose > 0 -> lose--; tries++; res = unknown
		fi;
		if
		:: res == unknown && tries < 2 -> goto storing
		:: res == expired -> res = none; tries = 0; goto failing
		:: else
		fi
	}
	atomic {
		if
		:: crash > 0 -> crash--; goto dead
		:: res == older || res == is_dropped -> goto again
		:: else
		fi;
		publish(i, v, res == ok, !pa[i] && v < snap[i]);
		if
		:: res == unknown && late[i] == 0 && kept[i] == 0 -> late[i] = v;
#ifndef NO_KEPT
			kept[i] = lease[i]; lease[i] = 0
#endif
		:: else
		fi;
		release(i);
		if
		:: usable(i) && snap[i] > above -> goto served
		:: ended & BIT(v) -> hold[i] = 1; goto answered
		:: else -> goto again
		fi
	}
again:
	atomic { release(i); ua[i] = 0; pa[i] = 0; v = 0; tries = 0; alone = 0; res = none; goto read }
served: /* with the snapshot */
	atomic {
		assert(!explicit || snap[i] > call_snap || forgot);
		goto done
	}
answered: /* with a failure: whoever has no token asks again when things have changed */
	atomic {
		if
		:: rbackoff || rhold -> explicit = 0; above = 0; goto wait
		:: else -> goto done
		fi
	}
wait: /* a look at the same things would decide the same */
	atomic {
		(usable(i) && snap[i] > above && !explicit || token != rtoken || failure != rfailure || backoff != rbackoff ||
			lock != rlock || hold[i] != rhold);
		if
		:: usable(i) && snap[i] > above && !explicit -> goto done
		:: else -> goto read
		fi
	}
dead:
	atomic {
		snap[i] = 0; stood[i] = 0; drop[i] = 0; hold[i] = 0; lease[i] = 0; taken[i] = 0; seen[i] = 0; calling[i] = 0; late[i] = 0;
		kept[i] = 0; crashed[i] = 1
	}
done:
	atomic {
		rtoken = 0; rissued = 0; rdropped = 0; rfailure = 0; rlock = 0; rbackoff = 0; rhold = 0; above = 0; v = 0;
		tries = 0; call_failure = 0; call_now = 0; call_snap = 0; explicit = 0; alone = 0; res = none;
		ua[i] = 0; pa[i] = 0;
		goto end_idle
	}
}

/* A look behind the callers, when something was heard, and by the sweep: its reply may come late, too. */
proctype Look(byte i) {
	byte rtoken, rissued, rstored, rdropped;

end:	atomic {
		news[i] -> news[i] = 0; crashed[i] = 0;
		rtoken = token; rissued = issued; rstored = stored; rdropped = dropped;
		ul[i] = 1;
#ifndef QUICK
	}
	atomic {
#endif
		if
		:: !crashed[i] -> observe(i, rtoken, rissued, rstored, rdropped, pl[i], dl[i])
		:: else
		fi;
		ul[i] = 0; pl[i] = 0; dl[i] = 0;
		rtoken = 0; rissued = 0; rstored = 0; rdropped = 0;
		goto end
	}
}

inline lose_history() { /* and the leases with it */
	forgot = 1; written = 0; counted = 0;
	for (j : 0 .. N - 1) {
		if
		:: lease[j] != 0 && lock != lease[j] -> taken[j] = 1
		:: else
		fi;
		news[j] = 1; seen[j] = 0                /* a reconnect, or the sweep: all in use is read again */
	}
	j = 0
}

#if FAILOVER /* time passes for a replica of Redis, too */
#define replica_too(a, when) a = (when -> 0 : a)
#else
#define replica_too(a, when) skip
#endif
#define holder ((lock - 1) / 3)
#define held (lease[holder] == lock || kept[holder] == lock)
#ifdef SOON             /* a late write is settled before it gives the lease up */
#define may_give_up(i) (kept[i] != 0 && late[i] == 0)
#else
#define may_give_up(i) (kept[i] != 0)
#endif
#define any(a) (a[0] || a[1] || a[N - 1])

#define which(a) if :: a[0] -> j = 0 :: a[1] -> j = 1 :: a[N - 1] -> j = N - 1 fi

/* Time and misfortune. */
proctype World() {
	byte j, v, highest;
	bit swept;
	mtype res = none;

end:	do
	:: atomic { backoff -> backoff = 0; replica_too(backoff1, failure1 == failure) }
	:: atomic { lock != 0 && !held -> replica_too(lock1, lock1 == lock); lock = 0 } /* a lock that nobody believes to hold runs out */
	:: atomic { lock != 0 && held && expire > 0 -> expire--;
		taken[holder] = taken[holder] || lease[holder] == lock; replica_too(lock1, lock1 == lock); lock = 0 }
	:: atomic { /* a token does */
		lives > 0 && token != 0 -> lives--; ended = ended | BIT(token); replica_too(token1, token1 == token); token = 0 }
	:: atomic { /* invalidate */
		invalidate > 0 -> invalidate--;
		keep();
		if
		:: v = max(max(issued, stored), max(token, now))
		:: token != 0 -> v = token
		fi;
		dropped = max(dropped, v); issued = max(issued, dropped); v = 0;
		if
		:: token <= dropped -> token = 0
		:: else
		fi;
		publish_event()
	}
	:: atomic { evict > 0 -> evict--;
		if
		:: token = 0; written = 0
		:: failure = 0; backoff = 0; counted = 0
		:: issued = 0; stored = 0; dropped = 0; lose_history()
		fi
	}
	:: atomic { flush > 0 -> flush--;
		token = 0; issued = 0; stored = 0; dropped = 0; failure = 0; backoff = 0; lock = 0;
#ifdef CLOCK_BACK
		now = 0;
#endif
		lose_history()
	}
#if FAILOVER
	:: atomic { failover > 0 -> failover--;
		token = token1; issued = issued1; stored = stored1; dropped = dropped1; failure = failure1; backoff = backoff1;
		lock = lock1;
		lose_history()
	}
#endif
	:: atomic { any(hold) -> which(hold); hold[j] = 0; j = 0 }
	:: atomic { any(late) -> which(late); put(late[j], res); res = none; late[j] = 0; news[j] = 1; j = 0 }
	:: atomic { may_give_up(0) || may_give_up(1) || may_give_up(N - 1) -> /* settled, or held for long enough */
		if :: may_give_up(0) -> j = 0 :: may_give_up(1) -> j = 1 :: may_give_up(N - 1) -> j = N - 1 fi;
		give_back(j, kept[j]); j = 0
	}
	:: atomic { any(late_release) -> which(late_release);
		if
		:: lock == late_release[j] -> lock = 0
		:: else
		fi;
		late_release[j] = 0; j = 0
	}
	:: atomic { timeout -> /* nothing is left to happen */
		if
		:: forgot && !swept -> swept = 1; publish_event()       /* but another turn of the sweep */
		:: else ->
			/* All replicas have a token, and the one that Redis has. (Where it has lost history: or a newer one, if they
			 * remember an invalidation that Redis has forgotten, or don't know that theirs has stood there.) */
			for (j : 0 .. N - 1) {
				assert(usable(j));
				assert(token == 0 || snap[j] == token ||
					forgot && snap[j] > token && (token <= drop[j] || !stood[j] && snap[j] <= issued))
			}
			j = 0;
			assert(lock == 0);
#ifdef COUNT
			assert(calls == 1 + LIVES);
#endif
			break
		fi
	}
	od
}

init {
	byte j;
	atomic {
		for (j : 0 .. N - 1) { run Replica(j); run Look(j) }
		run World();
		j = 0
	}
}
