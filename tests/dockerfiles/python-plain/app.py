import bottle


@bottle.route("/add/<a:int>/<b:int>")
def add(a, b):
    return {"sum": a + b}


bottle.run(host="0.0.0.0", port=8080, quiet=True)
