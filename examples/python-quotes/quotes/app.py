import os
from itertools import cycle

from flask import Flask, jsonify

PROVERBS = ("Measure twice, cut once.", "Many hands make light work.", "A stitch in time saves nine.")


def create_app(proverbs=PROVERBS):
    app = Flask(__name__)
    turns = cycle(enumerate(proverbs, start=1))

    @app.get("/")
    def quote():
        number, text = next(turns)
        return jsonify(number=number, text=text, release=os.environ.get("RELEASE", "unknown"))

    @app.get("/healthz")
    def healthz():
        return "ok"

    return app
