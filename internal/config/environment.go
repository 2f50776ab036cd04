package config

import (
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// environmentTable is what the file says of one environment. Each of its settings is a field of [manager.Environment].
func environmentTable(e *manager.Environment) table {
	standard, err := manager.Policy{}.WithDefaults()
	if err != nil {
		panic(err) // the defaults are valid, and each is looked at by a test
	}
	return table{
		groups: []group{
			{"Where tokens come from", []setting{
				set("base_url", &e.BaseURL, urlKind(), "the API's URL; without `token_url` and `issuer`, tokens come from this, a trailing `/api/v2` replaced by `/oauth2/v1/token`").
					like("https://app.campaignflow.com.au/api/v2").show(),
				set("token_url", &e.TokenURL, urlKind(), "the token endpoint outright").
					like("https://login.example.com/oauth2/token"),
				set("issuer", &e.Issuer, urlKind(), "the issuer whose metadata names the endpoints that no setting does: tokens, login, logout (RFC 8414, OpenID Connect Discovery)").
					like("https://login.example.com"),
				set("allow_http", &e.AllowHTTP, boolKind(), "permit plain http to hosts other than loopback").byDefault("false"),
				set("ca_file", &e.CAFile, filledKind(), "PEM: those who may vouch for the endpoint").
					impliedly("the system's").like("endpoint-ca.pem"),
			}},
			{"The client", []setting{
				set("client_id", &e.ClientID, textKind(), "the client's id").like("${CAMPAIGNFLOW_PROD_CLIENT_ID}").show(),
				set("client_secret", &e.ClientSecret, secretKind(), "the client's secret").like("${CAMPAIGNFLOW_PROD_CLIENT_SECRET}").show(),
				set("client_secret_file", &e.ClientSecretFile, filledSecretKind(), "a file with the client's secret; a line break at its end doesn't count").
					like("/run/secrets/client_secret"),
				set("auth_method", &e.AuthMethod, oneOf(manager.ClientSecretBasic, manager.ClientSecretPost, manager.PrivateKeyJWT, manager.TLSClientAuth, manager.NoClientAuth),
					"how the client authenticates: by its secret in a Basic header or in the form, by an assertion that a key signs (RFC 7523), by a certificate (RFC 8705), or not at all: a public client").
					byDefault(string(manager.ClientSecretBasic)),
				set("private_key_file", &e.PrivateKeyFile, filledSecretKind(), "the key that signs client assertions and the `jwt_bearer` grant's assertion: PEM, JWK or a service account's JSON").
					like("/run/secrets/client.key"),
				set("key_id", &e.KeyID, textKind(), "the key's `kid` in what it signs").impliedly("the one in its file, if any").like("2026-01"),
				set("signing_algorithm", &e.SigningAlgorithm, textKind(), "what is signed with (RFC 7518 §3.1)").impliedly("what goes with the key").like("ES256"),
				set("client_assertion_audience", &e.ClientAssertionAudience, textKind(), "the `aud` of a client assertion").
					impliedly("the token endpoint's URL").like("https://login.example.com"),
				set("client_assertion_file", &e.ClientAssertionFile, filledSecretKind(), "a client assertion that somebody else keeps fresh, in place of one that `private_key_file` signs").
					like("/run/secrets/client_assertion"),
				set("client_cert_file", &e.ClientCertFile, filledKind(), "PEM: the certificate of `tls_client_auth`, or of an endpoint that wants one").like("client.pem"),
				set("client_key_file", &e.ClientKeyFile, filledSecretKind(), "PEM: the certificate's key").like("/run/secrets/client-tls.key"),
			}},
			{"What is asked for", []setting{
				set("grant", &e.Grant, oneOf(manager.ClientCredentials, manager.RefreshToken, manager.JWTBearer, manager.TokenExchange),
					"what the token is asked for with").byDefault(string(manager.ClientCredentials)),
				set("scopes", &e.Scopes, listKind(textKind()), "the scopes asked for").like("[campaigns.read]"),
				set("audience", &e.Audience, listKind(textKind()), "for whom the token is to be: the parameter `audience`, once for each value").like("https://api.example.com"),
				set("resource", &e.Resource, listKind(textKind()), "where it is to be used: the parameter `resource` (RFC 8707), once for each value").like("https://api.example.com/v1"),
				set("params", &e.Params, paramsKind(), "further form parameters").like("{tenant: acme}"),
				set("secret_params", &e.SecretParams, mapKind(secretKind()), "further form parameters that are secrets: they are no part of the configuration's fingerprint").like("{api_key: \"${API_KEY}\"}"),
				set("headers", &e.Headers, mapKind(textKind()), "further headers of the request").like("{X-Tenant: acme}"),
				set("secret_headers", &e.SecretHeaders, mapKind(secretKind()), "further headers that are secrets").like("{X-Api-Key: \"${API_KEY}\"}"),
			}},
			{"The refresh_token grant", []setting{
				set("refresh_token", &e.RefreshToken, secretKind(), "the refresh token that the grant begins with: spent on its first use where refresh tokens rotate, and from then on the one in Redis counts").
					like("${REFRESH_TOKEN}"),
				set("refresh_token_file", &e.RefreshTokenFile, filledSecretKind(), "a file with that refresh token").like("/run/secrets/refresh_token"),
			}},
			{"The jwt_bearer grant", []setting{
				set("assertion", &e.Assertion, section(assertionTable), "the JWT that a token is exchanged for (RFC 7523 §2.1)"),
			}},
			{"The token_exchange grant", []setting{
				set("subject_token_file", &e.SubjectTokenFile, filledSecretKind(), "the token that is exchanged (RFC 8693 §2.1)").
					like("/var/run/secrets/tokens/subject"),
				set("subject_token_type", &e.SubjectTokenType, textKind(), "the subject token's type: a URN, or `jwt`, `access_token`, `id_token`, … for those of RFC 8693 §3").byDefault("jwt"),
				set("actor_token_file", &e.ActorTokenFile, filledSecretKind(), "the token of who acts for the subject").like("/var/run/secrets/tokens/actor"),
				set("actor_token_type", &e.ActorTokenType, textKind(), "the actor token's type").byDefault("jwt"),
				set("requested_token_type", &e.RequestedTokenType, textKind(), "the type of token that is asked for").
					impliedly("the endpoint chooses").like("access_token"),
			}},
			{"A login and its end", []setting{
				set("authorization_url", &e.AuthorizationURL, urlKind(), "where a person logs in").
					impliedly("what `issuer`'s metadata has").like("https://login.example.com/oauth2/authorize"),
				set("device_authorization_url", &e.DeviceAuthorizationURL, urlKind(), "where a device without a browser begins a login (RFC 8628)").
					impliedly("what `issuer`'s metadata has").like("https://login.example.com/oauth2/device"),
				set("revocation_url", &e.RevocationURL, urlKind(), "where a logout revokes the refresh token (RFC 7009)").
					impliedly("what `issuer`'s metadata has").like("https://login.example.com/oauth2/revoke"),
			}},
			{"Where the token goes", []setting{
				set("origins", &e.Origins, listKind(urlKind()), "where the HTTP client may send the token").
					impliedly("`base_url`'s; without either: anywhere").like("[https://app.campaignflow.com.au]"),
			}},
			{"When it is refreshed", []setting{
				set("expiry_margin", &e.ExpiryMargin, durationKind(), "a token with less life left isn't handed out").
					impliedly("min(10s, max(10 % of life, 1s), an eighth of the life)").like("5s"),
				set("refresh_at", &e.RefreshAt, partKind(), "the part of its life after which a token is refreshed behind its users").byDefault(writtenPart(standard.RefreshAt)),
				set("lease", &e.Lease, durationKind(), "how long a replica that is gone holds the lock; renewed every third; 1s to 10m").byDefault(written(standard.Lease)),
				set("endpoint_timeout", &e.EndpointTimeout, durationKind(), "the longest that a request to the token endpoint may take").byDefault(written(standard.EndpointTimeout)),
				set("connect_timeout", &e.ConnectTimeout, durationKind(), "the longest that its connection may take").byDefault(written(standard.ConnectTimeout)),
				set("backoff", &e.Backoff, backoffKind(standard.Backoff), "the pause after 3xx, 5xx, 429, time-outs, a 4xx without an error code, a reply that is no token; a lone duration is the first pause").
					byDefault(writtenBackoff(standard.Backoff)),
				set("backoff_refused", &e.BackoffRefused, backoffKind(standard.BackoffRefused), "the pause after an error code of RFC 6749 §5.2").
					byDefault(writtenBackoff(standard.BackoffRefused)),
				set("retry_after_max", &e.RetryAfterMax, durationKind(), "the longest Retry-After that is obeyed").byDefault(written(standard.RetryAfterMax)),
				set("default_life", &e.DefaultLife, durationKind(), "the life of a token without `expires_in`").byDefault(written(standard.DefaultLife)),
				set("max_life", &e.MaxLife, durationKind(), "the longest life that is believed").byDefault(written(standard.MaxLife)),
				set("keep_warm", &e.KeepWarm, boolKind(), "refresh without being asked for the token").byDefault("false"),
				set("outage", &e.Outage, oneOf(manager.OutageFail, manager.OutageRefreshAlone),
					"what is done without a usable token while Redis is away: an error that says so, or a token that isn't shared is fetched, at a bounded rate").byDefault(string(standard.Outage)),
			}},
		},
		rules: []rule{
			needOne("base_url", "token_url", "issuer"),
			needOne("client_id").unless(is("grant", &e.Grant, manager.JWTBearer, manager.TokenExchange), is("auth_method", &e.AuthMethod, manager.NoClientAuth)),
			needOne("client_secret", "client_secret_file").
				unless(is("auth_method", &e.AuthMethod, manager.PrivateKeyJWT, manager.TLSClientAuth, manager.NoClientAuth)),
			atMostOne("client_secret", "client_secret_file"),
			atMostOne("refresh_token", "refresh_token_file"),
			needWith("client_cert_file", "client_key_file"),
			needWith("client_key_file", "client_cert_file"),
			needWith("actor_token_file", "subject_token_file"),
		},
	}
}

// assertionTable is what the file says of the jwt_bearer grant's assertion.
func assertionTable(a *manager.Assertion) table {
	return table{groups: []group{{settings: []setting{
		set("issuer", &a.Issuer, textKind(), "the assertion's `iss`").impliedly("a service account's own, else `client_id`").like("robot@project.example.com"),
		set("subject", &a.Subject, textKind(), "the assertion's `sub`: in whose name").impliedly("`client_id`").like("user@example.com"),
		set("audience", &a.Audience, textKind(), "the assertion's `aud`").impliedly("the token endpoint's URL").like("https://login.example.com"),
		set("life", &a.Life, durationKind(), "how long the assertion is good: from its `iat` to its `exp`").byDefault("5m"),
		set("claims", &a.Claims, claimsKind(), "further claims; in text variables are expanded").like("{scope: campaigns.read}"),
		set("file", &a.File, filledSecretKind(), "a JWT that somebody else keeps fresh, in place of one that is signed here").like("/run/secrets/assertion"),
	}}}}
}

// environmentsKind is environments by their names.
func environmentsKind() kind[map[string]manager.Environment] {
	k := section(environmentTable)
	one, read := k.schema, k.read
	d := k.description
	d.each = true
	d.schema = func() schema {
		return schema{
			Type: types{"object"}, MinProperties: 1,
			PropertyNames: &schema{Pattern: nameForm}, Others: new(one()),
		}
	}
	return kind[map[string]manager.Environment]{d, func(v value) map[string]manager.Environment {
		environments := map[string]manager.Environment{}
		for name, item := range v.pairs() {
			if store.CheckName(name) != nil {
				item.setting = v.setting
				item.failApart("%.60q: %w", name, store.ErrName)
				continue
			}
			environments[name] = read(item)
		}
		return environments
	}}
}
