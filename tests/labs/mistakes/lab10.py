"""What students get wrong in lab 10, each as a change to the solution that loses the points of one check."""

from labs.mistakes import Mistake

MISTAKES = {
    "gives each attempt the whole budget": Mistake(
        task="deadline",
        changes={
            '"timeout": f"{budget_s}s",': '"timeout": "0s",',
            'f"{budget_s / attempts:.3f}s"': 'f"{budget_s}s"',
        },
        loses="check-deadline-ends",
        says="from a service that hangs (5 attempts), got no answer",
    ),
    "lets the first attempt take all the time": Mistake(
        task="deadline",
        changes={'"per_try_timeout": f"{budget_s / attempts:.3f}s",': ""},
        loses="check-deadline-second",
        says="got 504 and 1 attempts",
    ),
    "takes attempts for retries": Mistake(
        task="deadline",
        changes={'"num_retries": attempts - 1': '"num_retries": attempts'},
        loses="check-deadline-attempts",
        says="expected 503 after 3 attempts at a service that only says 503, got 503 after 4",
    ),
    "retries where nobody sees the service": Mistake(
        task="chain",
        changes={'actions[-1]["retry_policy"]': 'actions[0]["retry_policy"]', "num_retries,": "0,"},
        loses="check-chain-blip",
        says="got 503 after 1",
    ),
    "retries on every hop": Mistake(
        task="chain",
        changes={
            'actions[-1]["retry_policy"] = {': "retry_policy = {",
            "return actions": 'return [{**action, "retry_policy": retry_policy} for action in actions]',
        },
        loses="check-chain-storm",
        says="for one request over 3 hops, got 64",
    ),
    "waits everywhere for as long": Mistake(
        task="chain",
        changes={'f"{budget_s * (hops - hop) / hops:.3f}s"': 'f"{budget_s * (hop + 1) / hops:.3f}s"'},
        loses="check-chain-deadline",
        says="got 504 and the timeouts by hop [1, 0, 0]",
    ),
    "thinks that only GET is safe": Mistake(
        task="safe-routes",
        changes={"GET|HEAD|PUT|DELETE|OPTIONS": "GET|HEAD"},
        loses="check-safe-again",
        says="'PUT, 503': (503, 1)",
    ),
    "orders twice": Mistake(
        task="safe-routes",
        changes={'"retry_on": "connect-failure", "num': '"retry_on": "connect-failure,reset", "num'},
        loses="check-safe-once",
        says="got {'POST, hang up': 2}",
    ),
    "never tries a POST again": Mistake(
        task="safe-routes",
        changes={'"retry_policy": {"retry_on": "connect-failure", "num_retries": num_retries},': ""},
        loses="check-safe-unreached",
        says="got {200: 3, 503: 3}",
    ),
    "retries a bug": Mistake(
        task="safe-routes",
        changes={"gateway-error,reset": "5xx,reset"},
        loses="check-safe-hopeless",
        says="got {'GET, 500': (200, 2)",
    ),
    "thinks that the budget says how often": Mistake(
        task="storm-proof",
        changes={', "num_retries": num_retries}': "}"},
        loses="check-budget-route",
        says="got {2: (503, 2), 3: (503, 2)}",
    ),
    "has a budget for everything": Mistake(
        task="storm-proof",
        changes={'{"value": percent}': '{"value": 100 if percent > 1 else percent}'},
        loses="check-budget-share",
        says="expected 8 to 10 retries when 40 requests fail at once and 25 % may be retries, got",
    ),
    "is mean at night": Mistake(
        task="storm-proof",
        changes={'"min_retry_concurrency": at_least': '"min_retry_concurrency": 0'},
        loses="check-budget-lonely",
        says="expected 1 retries when 1 requests fail, for 1 are always allowed, got 0",
    ),
    "lets the waiting ones in": Mistake(
        task="breaker",
        changes={'"max_connections": at_once': '"max_connections": at_once + waiting'},
        loses="check-breaker-protects",
        says="expected 4 requests at once at a service with 12 callers, got 7",
    ),
    "takes a breaker for a queue": Mistake(
        task="breaker",
        changes={', "max_pending_requests": waiting': ""},
        loses="check-breaker-refuses",
        says="expected 3 to wait and 5 of 12 callers to be refused",
    ),
    "leaves the number of failures to Envoy": Mistake(
        task="ejection",
        changes={'"consecutive_5xx": failures,': ""},
        loses="check-ejection-out",
        says="expected one of 3 instances to be out after 3 failures and to get no more, got: 3 of",
    ),
    "keeps the ill out for long": Mistake(
        task="ejection",
        changes={'"base_ejection_time": f"{seconds}s",': ""},
        loses="check-ejection-back",
        says="got back: False",
    ),
    "takes all out": Mistake(
        task="ejection",
        changes={'"max_ejection_percent": percent': '"max_ejection_percent": 100'},
        loses="check-ejection-all",
        says="expected 2 of 4 instances to be out when all fail and 50 % may be out, got 4",
    ),
    "waits for whoever hangs": Mistake(
        task="armour",
        changes={'"per_try_timeout": "0.5s",': ""},
        loses="check-gauntlet-ill",
        says="{'hold': {200: ",
        is_alone=True,
    ),
    "does not count an answer as a failure": Mistake(
        task="armour",
        changes={'"retry_on": "gateway-error,reset,connect-failure"': '"retry_on": "reset,connect-failure"'},
        loses="check-gauntlet-ill",
        says="'flapping': {200: ",
    ),
    "thinks that retries only help": Mistake(
        task="armour",
        changes={'"retry_budget": budget': '"max_retries": 1000'},
        loses="check-gauntlet-storm",
        says="expected at most 48 requests at instances that all fail, for 24 callers, got",
    ),
    "gives the first attempt all the time there is": Mistake(
        task="armour",
        changes={
            '"timeout": "2s"': '"timeout": "20s"',
            '"per_try_timeout": "0.5s"': '"per_try_timeout": "3.5s"',
        },
        loses="check-gauntlet-deadline",
        says="expected an answer within 3 s",
    ),
    "lets everybody in": Mistake(
        task="armour",
        changes={'"max_connections": 24, "max_pending_requests": 12, ': ""},
        loses="check-gauntlet-overload",
        says="got 40 in hand and 0 refused",
    ),
    "writes as it reads": Mistake(
        task="armour",
        changes={'{"match": {"prefix": "/"}, "route": write}': '{"match": {"prefix": "/"}, "route": read}'},
        loses="check-gauntlet-once",
        says="expected 100 POSTs to arrive once each, got",
    ),
    "forgets whom it has taken out": Mistake(
        task="armour",
        changes={'"base_ejection_time": "1s"': '"base_ejection_time": "30s"'},
        loses="check-gauntlet-recovery",
        says="back: False",
    ),
}
