package manager

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/onetoken/onetoken/store"
)

// Tokens of many environments that all came at one time are not all refreshed at one time, and each by one replica.
func TestRefreshesOfManyEnvironmentsAreSpread(t *testing.T) {
	const environments, replicas, commands = 10_000, 20, 25 // of a refresh in which all of them take part
	p := defaulted(t, Policy{})
	var names []string
	for i := range replicas {
		names = append(names, fmt.Sprintf("replica-%02d", i))
	}
	for _, gone := range []bool{false, true} {
		var first []time.Duration
		collisions := 0
		for i := range environments {
			token := store.NewToken(Token{
				Version: Version(1_795_977_961_777_534 + i), IssuedAt: redisNow, ExpiresAt: redisNow.Add(time.Hour),
				Took: 300 * time.Millisecond, RefreshedBy: names[0],
			})
			if gone {
				token.RefreshedBy = "a replica of the last deploy"
			}
			var ages []time.Duration
			for _, replica := range names {
				ages = append(ages, p.refreshAge(token, fmt.Sprintf("tenant-%d", i), replica))
			}
			slices.Sort(ages)
			first = append(first, ages[0])
			if ages[1]-ages[0] < 300*time.Millisecond {
				collisions++
			}
		}
		slices.Sort(first)
		most, in := 0, 0 // in a second
		for i, at := range first {
			for first[in] <= at-time.Second {
				in++
			}
			most = max(most, i-in+1)
		}
		t.Logf("gone %v: %d refreshes from %v to %v, at most %d a second; two at once in %d", gone, environments, first[0], first[len(first)-1], most, collisions)
		if most*commands > 5000 {
			t.Errorf("up to %d refreshes a second", most)
		}
		if collisions > environments/20 || collisions > 0 && !gone {
			t.Errorf("two replicas begin at once in %d of %d environments", collisions, environments)
		}
	}
}
