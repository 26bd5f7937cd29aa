"""A hub that others reach: TLS, and sign-in at the university's provider or from its LMS.

export CNLAB_TLS_KEY=... CNLAB_TLS_CERT=... CNLAB_SIGN_IN=oauth
make hub HUB_ARGS="--instructor alice --config grading/hub/production.py"

CNLAB_TLS_KEY, CNLAB_TLS_CERT   files in PEM form
CNLAB_SIGN_IN                   oauth (see oauth.py), lti13 (see lti13.py), or pam: passwords of this machine
CNLAB_HUB_BIND                  where to listen; by default all addresses, port 443
CNLAB_HUB_HTTP_PORT             a port whose visitors are sent to TLS, such as 80; by default none
CNLAB_HUB_SUBDOMAINS            https://hub.uni.example: each user's server gets an origin of its own below.
                                It needs a wildcard certificate, and is worth it: what one user's server
                                serves cannot act with another's cookies then.
"""

import os
from pathlib import Path

c = get_config()  # noqa: F821 - traitlets defines it where it reads this file
here = Path(__file__).resolve().parent
load_subconfig(f"{here.parent}/jupyterhub_config.py")  # noqa: F821 - likewise

c.JupyterHub.bind_url = os.environ.get("CNLAB_HUB_BIND", "https://:443")
c.JupyterHub.ssl_key = os.environ["CNLAB_TLS_KEY"]
c.JupyterHub.ssl_cert = os.environ["CNLAB_TLS_CERT"]
c.JupyterHub.tornado_settings = {
    "cookie_options": {"secure": True},
    "headers": {"Strict-Transport-Security": "max-age=31536000"},
}
if "CNLAB_HUB_HTTP_PORT" in os.environ:
    c.ConfigurableHTTPProxy.command += [f"--redirect-port={os.environ['CNLAB_HUB_HTTP_PORT']}"]
if "CNLAB_HUB_SUBDOMAINS" in os.environ:
    c.JupyterHub.subdomain_host = os.environ["CNLAB_HUB_SUBDOMAINS"]

# A file that is not there would be passed over in silence.
sign_in = {"oauth": f"{here}/oauth.py", "lti13": f"{here}/lti13.py", "pam": ""}[os.environ["CNLAB_SIGN_IN"]]
if sign_in:
    load_subconfig(sign_in)  # noqa: F821

# Servers that are idle for two hours end, their kernels after one.
c.Spawner.args = [
    "--ServerApp.shutdown_no_activity_timeout=7200",
    "--MappingKernelManager.cull_idle_timeout=3600",
]
