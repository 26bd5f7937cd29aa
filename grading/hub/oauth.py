"""Sign-in at an OAuth 2 or OpenID Connect provider; for CNLAB_SIGN_IN=oauth in production.py.

    OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET            as registered there, with the callback OAUTH_CALLBACK_URL
    OAUTH_CALLBACK_URL                              https://hub.uni.example/hub/oauth_callback
    OAUTH2_AUTHORIZE_URL, OAUTH2_TOKEN_URL, OAUTH2_USERDATA_URL
    OAUTH_NAME_CLAIM                                the claim with the user's address; by default email
    CNLAB_MAIL_DOMAIN                               uni.example: whose addresses are our users
    CNLAB_STUDENTS                                  who may come in; or OAUTH_GROUP, a group of the provider's

That claim makes the name: ada.lovelace@uni.example is the user ada-lovelace of this machine, whose account
is made when she first comes (and ada-lovelace@uni.example, somebody else, is ada--lovelace). It decides who
reads the gradebook, so it must not be the user's to edit: where users can change their e-mail, name another,
such as ``eduperson_principal_name``. What is no address of the domain, or says ``email_verified: false``,
signs nobody in.

See: https://oauthenticator.readthedocs.io, "Generic OAuthenticator setup".
"""

import os

c = get_config()  # noqa: F821 - traitlets defines it where it reads this file

c.JupyterHub.authenticator_class = "cnlab.grading.hub.sign_in.OAuth"
c.OAuth.login_service = os.environ.get("OAUTH_NAME", "the university")
c.OAuth.scope = ["openid", "email", "profile"]
c.OAuth.username_claim = os.environ.get("OAUTH_NAME_CLAIM", "email")
c.OAuth.mail_domain = os.environ["CNLAB_MAIL_DOMAIN"]
c.OAuth.create_system_users = True
if "OAUTH_GROUP" in os.environ:
    c.OAuth.auth_state_groups_key = "oauth_user.groups"
    c.OAuth.allowed_groups = {os.environ["OAUTH_GROUP"]}
    c.OAuth.manage_groups = True
