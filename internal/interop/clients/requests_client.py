"""A token by requests-oauthlib.

OAUTHLIB_INSECURE_TRANSPORT=1 lets it use http, which is for loopback only. OAUTHLIB_RELAX_TOKEN_SCOPE=1 lets it take a
token with more scope than it asked for: a shared token has the scope of its environment.
"""
import json
import os

from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

url, client_id, secret = (os.environ[k] for k in ("TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET"))
scope = os.environ.get("SCOPE", "").split() or None

session = OAuth2Session(client=BackendApplicationClient(client_id=client_id, scope=scope))
how = {"auth": HTTPBasicAuth(client_id, secret)}
if os.environ["AUTH"] == "post":
    how = {"include_client_id": True, "client_secret": secret}
try:
    token = session.fetch_token(token_url=url, **how)
    print(json.dumps({
        "access_token": token["access_token"], "token_type": token["token_type"],
        "expires_in": token["expires_in"], "scope": " ".join(token.get("scope") or []),
    }))
except OAuth2Error as e:
    print(json.dumps({"error": e.error, "status": e.status_code}))
