"""The playground: a learner in the browser, on this machine only (`dfml playground`, extra `serve`).

`session.py` is what one visitor does, without a browser; `app.py` puts gradio's components around it.
"""
