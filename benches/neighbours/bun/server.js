// The plain convention with Bun: PORT=7000 bun server.js. /room/NAME joins, a binary message goes to everybody in NAME.

// A member that reads nothing may have this much waiting; Bun drops what is beyond it, and a lost message fails a run.
const BACKLOG_BYTES_MAX = 1 << 30;

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.PORT ?? 7000),
  fetch(request, server) {
    const [, name] = new URL(request.url).pathname.split("/room/");
    if (name && server.upgrade(request, { data: { name } })) return;
    return new Response("open a WebSocket on /room/NAME\n", { status: 400 });
  },
  websocket: {
    backpressureLimit: BACKLOG_BYTES_MAX,
    perMessageDeflate: false,
    publishToSelf: true,
    open(socket) {
      socket.subscribe(socket.data.name);
    },
    message(socket, message) {
      socket.publish(socket.data.name, message);
    },
  },
});

console.log(`listening on ${server.hostname}:${server.port}`);
