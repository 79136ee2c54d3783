"""The cluster in the real world: a controller over machines that run workers.

``open_host`` puts one together; a ``Desk`` is what users ask. What is decided is the scheduler's
(``cluster.scheduler``); here it is written down (``store``), carried out (``reconcile``, ``hands``, a ``Backend``) and
followed (``controller``).
"""

from quiltwork.cluster.live.controller import Controller
from quiltwork.cluster.live.desk import Desk
from quiltwork.cluster.live.host import Host, open_host
from quiltwork.cluster.live.settings import Settings

__all__ = ["Controller", "Desk", "Host", "Settings", "open_host"]
