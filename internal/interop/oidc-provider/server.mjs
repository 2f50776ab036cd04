// An authorization server with oidc-provider: node server.mjs < config.json, where the configuration is one line with the
// registered clients and, in PEM, the server's key and certificate and the authority of clients' certificates. It prints
// {"issuer": URL} once it listens, and ends with its stdin. Everyone who logs in is alice, and agrees to everything.
// Certificates are asked for at another port alone, which the metadata names (RFC 8705 §5).
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';

import Provider, { errors } from 'oidc-provider';

const lines = createInterface({ input: process.stdin });
const config = JSON.parse(await new Promise((resolve) => { lines.once('line', resolve); }));
lines.once('close', () => process.exit(0));

const certificate = (ctx) => {
  const { raw } = ctx.socket.getPeerCertificate();
  return raw && new X509Certificate(raw);
};

async function listen(options) {
  const server = createServer({ key: config.key, cert: config.cert, ...options });
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return { server, url: `https://127.0.0.1:${server.address().port}` };
}
const { server, url: issuer } = await listen();
const mutual = await listen({ ca: config.clientCA, requestCert: true, rejectUnauthorized: false });

const signingKey = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
const apiScopes = 'campaigns.read campaigns.write';

const provider = new Provider(issuer, {
  clients: config.clients,
  jwks: { keys: [{ ...signingKey, kid: 'server', use: 'sig', alg: 'RS256' }] },
  cookies: { keys: ['only for tests'] },
  scopes: ['openid', 'offline_access', ...apiScopes.split(' ')],
  clientAuthMethods: [
    'client_secret_basic', 'client_secret_post', 'private_key_jwt', 'tls_client_auth', 'self_signed_tls_client_auth', 'none',
  ],
  discovery: {
    mtls_endpoint_aliases: {
      token_endpoint: `${mutual.url}/token`,
      revocation_endpoint: `${mutual.url}/token/revocation`,
      device_authorization_endpoint: `${mutual.url}/device/auth`,
    },
  },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
  expiresWithSession: () => false,
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    deviceFlow: {
      enabled: true,
      userCodeInputSource(ctx, form) { ctx.body = form; },
      userCodeConfirmSource(ctx, form) { ctx.body = form; },
      successSource(ctx) { ctx.body = 'the device is connected'; },
    },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    mTLS: {
      enabled: true,
      tlsClientAuth: true,
      selfSignedTlsClientAuth: true,
      getCertificate: certificate,
      certificateAuthorized: (ctx) => ctx.socket.authorized,
      certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_san_dns'
        && certificate(ctx).subjectAltName.split(', ').includes(`DNS:${expected}`),
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo(ctx, resource) {
        if (!resource.startsWith('https://api.example/')) {
          throw new errors.InvalidTarget();
        }
        return {
          audience: resource, scope: apiScopes, accessTokenTTL: 1800, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
        };
      },
    },
  },
});

// The person: logs in and agrees at once, and a device needn't wait for long to hear of it.
provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) {
    await next();
    if (ctx.body?.device_code) {
      ctx.body = { ...ctx.body, interval: 1 };
    }
    return;
  }
  const { params } = await provider.interactionDetails(ctx.req, ctx.res);
  const grant = new provider.Grant({ accountId: 'alice', clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  for (const resource of [params.resource ?? []].flat()) {
    grant.addResourceScope(resource, params.scope);
  }
  ctx.respond = false;
  await provider.interactionFinished(ctx.req, ctx.res, {
    login: { accountId: 'alice' }, consent: { grantId: await grant.save() },
  });
});

server.on('request', provider.callback());
mutual.server.on('request', provider.callback());
console.log(JSON.stringify({ issuer }));
