"""What an account of OpenAI's old shape holds: enough, and nothing is counted."""

from __future__ import annotations

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
