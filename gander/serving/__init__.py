"""The live page of a run: samples, the way between them, and where attention looks, on this machine's own address.

    from gander import serving
    serving.serve(Run.open("runs/sagan-photos"), port=0)

The standard library's server and one static page. Gradio was the other choice: it brings 46 packages and 239 MB, loads its page's
fonts from elsewhere, and sends every move of the pointer through its own queue; what is needed here is eight addresses.

`networks.py` answers, `asked.py` reads what is asked, `answers.py` joins them, `server.py` speaks HTTP, `page/` is the page.
"""

from gander.serving.networks import Networks
from gander.serving.server import Server, serve

__all__ = ["Networks", "Server", "serve"]
