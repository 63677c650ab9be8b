import asyncio
import socket

import uvloop

from shared.adapters.web.server import listeners


def test_clients_that_come_at_once_do_not_wait_a_turn_of_the_loop_each():
    """A turn costs as much as the answers to all clients that were accepted before."""
    clients = 32

    async def accepted_in(turns: int) -> int:
        made: list[asyncio.BaseTransport] = []

        class Counts(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(transport)

        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0), backlog=clients) as listener:
            servers = [await loop.create_server(Counts, sock=one) for one in listeners(listener)]
            waiting = [socket.create_connection(listener.getsockname()) for _ in range(clients)]
            for _ in range(turns):
                await asyncio.sleep(0)
            count = len(made)
            for transport in made:
                transport.abort()
            for client in waiting:
                client.close()
            for server in servers:
                server.close()
                await server.wait_closed()
        return count

    assert uvloop.run(accepted_in(4)) == clients
