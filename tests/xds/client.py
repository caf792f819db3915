"""A gRPC client that finds its servers over xDS, and servers for it to find.

    client.py serve NAME           serves; prints its port, and answers each call with NAME
    client.py call TARGET COUNT    calls COUNT times; prints the answers, one a line
    client.py watch TARGET         calls for each line on the standard input; prints an answer for each

Answers of calls that fail are `error` and the code.
"""

import sys
from concurrent import futures

import grpc

METHOD = "/muster.test.Echo/Name"


class Echo(grpc.GenericRpcHandler):
    def __init__(self, name):
        self.name = name

    def service(self, details):
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.name)


def serve(name):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2), handlers=[Echo(name.encode())])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    # Ends with its parent.
    sys.stdin.read()
    server.stop(grace=1).wait()


def call(method):
    try:
        # Waits for a first answer of the control plane, as every call of such a channel does.
        return method(b"", timeout=20).decode()
    except grpc.RpcError as error:
        return f"error {error.code().name} {error.details()}"


def main():
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
        return
    with grpc.insecure_channel(sys.argv[2]) as channel:
        method = channel.unary_unary(METHOD)
        if sys.argv[1] == "call":
            for _ in range(int(sys.argv[3])):
                print(call(method), flush=True)
            return
        for _ in sys.stdin:
            print(call(method), flush=True)


main()
