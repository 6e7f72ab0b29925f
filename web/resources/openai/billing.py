"""GET /dashboard/billing/...: an account of OpenAI's old shape. Clients that ask for their credit
before they start find enough of it; nothing is counted.
"""

from __future__ import annotations

import falcon
import msgspec

from web.schemas.billing import CREDIT_GRANTS, SUBSCRIPTION


class BillingResource:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = msgspec.json.encode(CREDIT_GRANTS)

    def on_get_subscription(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = msgspec.json.encode(SUBSCRIPTION)
