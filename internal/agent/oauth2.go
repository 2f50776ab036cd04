package agent

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/onetoken/onetoken/internal/answer"
	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
)

// dropIn is what an environment's token endpoint answers by.
type dropIn struct {
	id      digest        // of the environment's own client
	secret  func() digest // … as it is now; nil where it has none: a client without a secret can't show who it is
	scopes  []string
	targets map[string][]digest // the values of audience and of resource that the environment is configured with
}

func newDropIn(log *slog.Logger, e manager.Environment) (dropIn, error) {
	d := dropIn{id: digestOf(e.ClientID), scopes: e.Scopes, targets: map[string][]digest{}}
	switch {
	case e.ClientSecretFile != "":
		secret, err := watch(log, parseSecret, e.ClientSecretFile)
		if err != nil {
			return d, err
		}
		d.secret = secret.get
	case !e.ClientSecret.IsEmpty():
		secret := digestOf(e.ClientSecret.Reveal())
		d.secret = func() digest { return secret }
	}
	for name, configured := range map[string][]string{"audience": e.Audience, "resource": e.Resource} {
		for _, v := range slices.Concat(configured, e.Params[name]) {
			d.targets[name] = append(d.targets[name], digestOf(v))
		}
		if s, ok := e.SecretParams[name]; ok {
			d.targets[name] = append(d.targets[name], digestOf(s.Reveal()))
		}
	}
	return d, nil
}

// isOwn reports whether these are the environment's own client's credentials.
func (d dropIn) isOwn(id, secret digest) bool {
	return d.secret != nil && d.id.equal(id) && d.secret().equal(secret)
}

// A tokenAnswer is RFC 6749 §5.1's.
type tokenAnswer struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
	Scope       string `json:"scope,omitempty"`
}

// oauth2Token answers POST /v1/environments/{env}/oauth2/token: a token endpoint (RFC 6749 §3.2) whose tokens are the
// environment's one. Whoever shares a token has all of its scope, whatever was asked for, and is told so.
func (a *Agent) oauth2Token(w http.ResponseWriter, r *http.Request) {
	w.Header()["Pragma"] = noCache
	e := a.setup().envs[r.PathValue("env")]
	if e == nil && a.keys == nil { // the list of environments is everybody's: nothing to hide
		a.unknown(r.PathValue("env"), a.options.Manager.Environments()).send(w)
		return
	}
	request, wrong := readTokenRequest(r)
	if wrong == nil {
		var busy *problem
		if wrong, busy = a.authenticate(r, e, request.login); busy != nil {
			unavailable(w, busy)
			return
		}
	}
	if wrong == nil {
		wrong = e.drop.checkTargets(request)
	}
	if wrong != nil {
		wrong.send(w)
		return
	}
	a.grant(w, r, e, request)
}

// authenticate compares with the environment's own client and with those that are configured. e is nil where there is no
// such environment: an outsider learns no more of it than of one that is there. Whoever fails too often is held back, and so
// is who uses the same id at the same address, which may be all of loopback: but not with the right secret, where that is
// too long to be guessed.
func (a *Agent) authenticate(r *http.Request, e *environment, l login) (*oauth2Error, *problem) {
	wait, who := a.failed.wait(address(r), l.readings[0].id)
	knows, mayUse := false, false
	for _, c := range l.readings {
		if wait > 0 && c.guessable {
			continue
		}
		id := digestOf(c.id)
		if e != nil && e.drop.isOwn(id, c.secret) {
			knows, mayUse = true, true
		}
		for _, known := range a.setup().clients {
			if digestOf(known.ID).equal(id) && known.secret.get().equal(c.secret) {
				knows = true
				mayUse = mayUse || e != nil && known.mayUse(e.name)
			}
		}
	}
	switch {
	case mayUse:
		return nil, nil
	case knows:
		return &oauth2Error{http.StatusBadRequest, "unauthorized_client", "this client may not use this environment"}, nil
	case wait > 0:
		return nil, tooMany(wait)
	}
	a.failed.note(who)
	return invalidClient("unknown client, or another secret"), nil
}

// checkTargets refuses an audience or a resource that the token isn't for (RFC 8707 §2).
func (d dropIn) checkTargets(q *tokenRequest) *oauth2Error {
	for _, name := range []string{"audience", "resource"} {
		for _, v := range q.form[name] {
			if !slices.ContainsFunc(d.targets[name], digestOf(v).equal) {
				return &oauth2Error{http.StatusBadRequest, "invalid_target", "the environment's token is for another " + name}
			}
		}
	}
	return nil
}

// grant answers a client that may have the token.
func (a *Agent) grant(w http.ResponseWriter, r *http.Request, e *environment, q *tokenRequest) {
	asked, wrong := q.requestedScope()
	if wrong != nil {
		wrong.send(w)
		return
	}
	t, p := a.fetch(r, e)
	switch {
	case p != nil && p.Status < http.StatusInternalServerError:
		invalidRequest("%s", p.Detail).send(w)
		return
	case p != nil:
		unavailable(w, p)
		return
	}
	granted := strings.Fields(t.Scope)
	if len(granted) == 0 {
		granted = e.drop.scopes // RFC 6749 §5.1: not mentioned where it is what was asked for
	}
	for _, scope := range asked {
		if !slices.Contains(granted, scope) {
			(&oauth2Error{http.StatusBadRequest, "invalid_scope", "the environment's token hasn't all of that scope"}).send(w)
			return
		}
	}
	writeJSON(w, http.StatusOK, "application/json", tokenAnswer{
		AccessToken: t.AccessToken.Reveal(),
		TokenType:   t.TokenType,
		ExpiresIn:   answer.Seconds(a.options.Manager.ExpiresIn(e.name, t)),
		Scope:       strings.Join(granted, " "),
	})
}

// oauth2Body is how an error is written (RFC 6749 §5.2).
type oauth2Body struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

func (e *oauth2Error) send(w http.ResponseWriter) {
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="onetoken", charset="UTF-8"`)
	}
	writeJSON(w, e.status, "application/json", oauth2Body{e.code, describable(e.description)})
}

// unavailable answers for what isn't the client's fault. RFC 6749 has no code for it here; that of §4.1.2.1 is the one
// that clients know.
func unavailable(w http.ResponseWriter, p *problem) {
	w.Header().Set("Retry-After", seconds(p.RetryAfter))
	status := p.Status
	if status != http.StatusTooManyRequests {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, "application/json", oauth2Body{"temporarily_unavailable", describable(p.Detail)})
}

// describable makes text fit for an error_description: printable ASCII without '"' and '\' (RFC 6749 §5.2).
func describable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r == '\\':
			return '/'
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, strings.ReplaceAll(printable.Line(s, 500), "§", "section "))
}
