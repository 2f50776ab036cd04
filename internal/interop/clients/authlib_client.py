"""A token by Authlib's client for requests, which takes http without a switch."""
import json
import os

from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from requests import HTTPError

url, client_id, secret = (os.environ[k] for k in ("TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET"))

session = OAuth2Session(
    client_id, secret, scope=os.environ.get("SCOPE") or None,
    token_endpoint_auth_method="client_secret_" + os.environ["AUTH"],
)
try:
    token = session.fetch_token(url, grant_type="client_credentials")
    print(json.dumps({
        "access_token": token["access_token"], "token_type": token["token_type"],
        "expires_in": token["expires_in"], "scope": token.get("scope") or "",
    }))
except OAuthError as e:
    print(json.dumps({"error": e.error, "status": 0}))
except HTTPError as e:  # of a 5xx it doesn't read the body
    print(json.dumps({"error": "HTTPError", "status": e.response.status_code}))
