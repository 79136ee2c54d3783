"""The HTTP door: OpenAI-shaped routes, task routes, metrics and the page."""

from quiltwork.gateway.app import create_app
from quiltwork.gateway.limits import Limits
from quiltwork.gateway.server import Address, check_address, listen, serve, url_of
from quiltwork.gateway.tenants import KeyFile, Visitor

__all__ = ["Address", "KeyFile", "Limits", "Visitor", "check_address", "create_app", "listen", "serve", "url_of"]
