"""What students get wrong in lab 9, each as a change to the solution that loses the points of one check."""

from labs.mistakes import Mistake

MISTAKES = {
    "knows one instance": Mistake(
        task="load-assignment",
        changes={"for instance in instances:": "for instance in instances[:2]:"},
        loses="check-assignment-of-all",
        says="got {'reviews-0': 30, 'reviews-1': 30}",
    ),
    "gives all the same weight": Mistake(
        task="load-assignment",
        changes={
            'member["load_balancing_weight"] = instance["weight"]': 'member["load_balancing_weight"] = 1'
        },
        loses="check-assignment-weights",
        says="got {'reviews-0': 40, 'reviews-1': 40}",
    ),
    "takes weights for percentages": Mistake(
        task="canary",
        changes={'"v1": 100 - percent,': '"v1": 100 if percent < 100 else 0,'},
        loses="check-canary-share",
        says="expected v2 to serve about 50 % of 1000 requests",
    ),
    "keeps somebody on the old version": Mistake(
        task="canary",
        changes={'"v1": 100 - percent,': '"v1": max(100 - percent, 20),'},
        loses="check-canary-ends",
        says="expected v2 to serve all of 100 requests at 100 %, got",
    ),
    "lets the general route come first": Mistake(
        task="virtual-host",
        changes={"[to_v2, default]": "[default, to_v2]"},
        loses="check-steer-tester",
        says="got {'ada': 'v1'}",
    ),
    "takes a longer name for the tester's": Mistake(
        task="virtual-host",
        changes={'{"exact": tester}': '{"prefix": tester}'},
        loses="check-steer-others",
        says="'adalbert': 'v2'",
    ),
    "answers for every host": Mistake(
        task="virtual-host",
        changes={'"domains": [service]': '"domains": ["*"]'},
        loses="check-steer-host",
        says="got {'ada': 'v2', 'nobody': 'v1'}",
    ),
    "decides by three requests": Mistake(
        task="next-percent",
        changes={"requests < 30": "requests < 1"},
        loses="check-canary-evidence",
        says="expected 25 % to stay after 29 requests with 0 failures, got 50",
    ),
    "takes the counter for what happened": Mistake(
        task="next-percent",
        changes={'after["failures"] - before["failures"]': 'after["failures"]'},
        loses="check-canary-difference",
        says="{'requests': 300, 'failures': 90}, got 0",
    ),
    "stops before the end": Mistake(
        task="next-percent",
        changes={"if step > percent]": "if step > percent and step <= 50]", "else 100": "else percent"},
        loses="check-canary-onwards",
        says="got [10, 25, 50, 50",
    ),
    "is content with most": Mistake(
        task="next-percent",
        changes={"< 0.99": "< 0.5"},
        loses="check-canary-back",
        says="expected the way [10, 0] and v1 for all when 3 of ten requests to v2 fail",
    ),
    "knows one caller": Mistake(
        task="server-tls",
        changes={
            '{"prefix": f"spiffe://{trust_domain}/"}': (
                '{"exact": f"spiffe://{trust_domain}/ns/default/sa/productpage"}'
            )
        },
        loses="check-server-tls-welcome",
        says="got {'ratings': 'refused', 'details': 'refused'}",
    ),
    "asks for no name": Mistake(
        task="server-tls",
        changes={'f"spiffe://{trust_domain}/"': '"spiffe://"'},
        loses="check-server-tls-domain",
        says="expected a workload of production.example to refuse a caller of cluster.local, got",
    ),
    "keeps plain text in strict mode": Mistake(
        task="filter-chains",
        changes={'[secure] if mode == "strict" else [secure, plain]': "[secure, plain]"},
        loses="check-strict",
        says="got {'mTLS': 200, 'plain': 200}",
    ),
    "switches TLS off in permissive mode": Mistake(
        task="filter-chains",
        changes={"[secure, plain]": "[plain]"},
        loses="check-permissive",
        says="got {'mTLS': 'refused', 'plain': 200}",
    ),
    "calls without a certificate": Mistake(
        task="client-tls",
        changes={'"tls_certificate_sds_secret_configs": [{"name": "default"}],': ""},
        loses="check-client-tls-both",
        says="got (503, None, None)",
    ),
    "believes every certificate of the mesh": Mistake(
        task="client-tls",
        changes={'{"exact": identity}': '{"prefix": f"spiffe://{trust_domain}/"}'},
        loses="check-client-tls-other",
        says="got 200",
    ),
    "lets reviews read one path only": Mistake(
        task="ratings-policy",
        changes={
            "all_of(get, below_ratings)": 'all_of(get, {"url_path": {"path": {"exact": "/ratings/0"}}})'
        },
        loses="check-policy-reads",
        says="got 403 for reviews: GET /ratings/7",
    ),
    "wants a header of another name": Mistake(
        task="ratings-policy",
        changes={'{"name": "end-user", "present_match": True}': '{"name": "user", "present_match": True}'},
        loses="check-policy-writes",
        says="got 403 for productpage: POST /ratings/0",
    ),
    "takes a list of permissions for and": Mistake(
        task="ratings-policy",
        changes={"[all_of(post, below_ratings, for_a_user)]": "[post, below_ratings, for_a_user]"},
        loses="check-policy-denies",
        says="got 200 for productpage: POST /ratings/0 {}",
    ),
    "lists whom it denies": Mistake(
        task="ratings-policy",
        changes={'[caller("reviews")]': '[{"not_id": caller("productpage")}]'},
        loses="check-policy-strangers",
        says="got 200 for details: GET /ratings/0",
    ),
}
