"""`gunicorn -c web/gunicorn.conf.py web.wsgi:app`. Importing starts nothing: no thread, no model,
no engine. `web/gunicorn.conf.py` starts the runtime in the worker, after the fork.
"""

from __future__ import annotations

from web.app import create_app
from web.config import Config
from web.engine.model_host import Runtime

config = Config.from_environment()
app = create_app(Runtime(config), config)
