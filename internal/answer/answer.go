// Package answer is what the command and the agent say of a token in JSON: the same, to the letter.
package answer

import (
	"time"

	"github.com/onetoken/onetoken/manager"
)

// A Token is what get prints. It reveals the access token.
type Token struct {
	Environment string          `json:"environment"`
	AccessToken string          `json:"access_token"`
	TokenType   string          `json:"token_type"`
	ExpiresIn   int64           `json:"expires_in"` // whole seconds from now
	ExpiresAt   time.Time       `json:"expires_at"`
	Version     manager.Version `json:"version"`
	RefreshedBy string          `json:"refreshed_by"`
}

// A Refresh is what refresh prints: a Token without the access token.
type Refresh struct {
	Environment string          `json:"environment"`
	ExpiresIn   int64           `json:"expires_in"` // whole seconds from now
	ExpiresAt   time.Time       `json:"expires_at"`
	Version     manager.Version `json:"version"`
	RefreshedBy string          `json:"refreshed_by"`
}

// Of describes t, a token of env that m has given.
func Of(m *manager.Manager, env string, t *manager.Token) Token {
	return Token{
		Environment: env,
		AccessToken: t.AccessToken.Reveal(),
		TokenType:   t.TokenType,
		ExpiresIn:   Seconds(m.ExpiresIn(env, t)),
		ExpiresAt:   t.ExpiresAt.UTC().Truncate(time.Millisecond), // as in Redis: its holder may know it to the microsecond
		Version:     t.Version,
		RefreshedBy: t.RefreshedBy,
	}
}

// Seconds are the whole seconds in a life, rounded down: it doesn't last for longer than promised.
func Seconds(life time.Duration) int64 { return int64(life / time.Second) }

// Refresh returns t without its access token.
func (t Token) Refresh() Refresh {
	return Refresh{t.Environment, t.ExpiresIn, t.ExpiresAt, t.Version, t.RefreshedBy}
}
