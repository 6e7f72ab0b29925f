"""GET /dashboard/billing/...: an account of OpenAI's old shape. Clients that ask for their credit
before they start find enough of it; nothing is counted.
"""

from __future__ import annotations

import falcon
import msgspec

_GRANTED = 10_000
_BEGINS, _ENDS = 1_672_531_200, 33_229_440_000  # 2023 to 3023

CREDIT_GRANTS = {
    "object": "credit_summary",
    "total_granted": _GRANTED,
    "total_used": 0,
    "total_available": _GRANTED,
    "grants": {
        "object": "list",
        "data": [
            {
                "object": "credit_grant",
                "grant_amount": _GRANTED,
                "used_amount": 0,
                "effective_at": _BEGINS,
                "expires_at": _ENDS,
            }
        ],
    },
}
SUBSCRIPTION = {
    "object": "billing_subscription",
    "has_payment_method": True,
    "soft_limit_usd": _GRANTED,
    "hard_limit_usd": _GRANTED,
    "system_hard_limit_usd": _GRANTED,
    "access_until": _ENDS,
}


class BillingResource:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(CREDIT_GRANTS)

    def on_get_subscription(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(SUBSCRIPTION)
