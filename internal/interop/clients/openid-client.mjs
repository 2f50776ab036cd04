// A token by openid-client: what changes for the agent is the token URL and allowInsecureRequests, for http on loopback.
import * as client from 'openid-client'

const { TOKEN_URL, CLIENT_ID, CLIENT_SECRET, AUTH, SCOPE } = process.env

const method = AUTH === 'post' ? client.ClientSecretPost(CLIENT_SECRET) : client.ClientSecretBasic(CLIENT_SECRET)
const server = { issuer: new URL(TOKEN_URL).origin, token_endpoint: TOKEN_URL }
const config = new client.Configuration(server, CLIENT_ID, CLIENT_SECRET, method)
if (TOKEN_URL.startsWith('http:')) client.allowInsecureRequests(config)

try {
  const token = await client.clientCredentialsGrant(config, SCOPE ? { scope: SCOPE } : {})
  console.log(JSON.stringify({ access_token: token.access_token, token_type: token.token_type, expires_in: token.expiresIn(), scope: token.scope ?? '' }))
} catch (e) {
  // A challenge (401) and an error body are two classes there.
  const challenge = e.code === 'OAUTH_WWW_AUTHENTICATE_CHALLENGE' ? e.cause?.[0] : undefined
  console.log(JSON.stringify({ error: e.error ?? challenge?.parameters?.error ?? e.code, status: e.status ?? e.cause?.status }))
}
