// The plain convention with Node and ws: PORT=7000 node server.js. /room/NAME joins, a binary message goes to everybody in NAME.

const { createServer } = require("node:http");
const { WebSocketServer } = require("ws");

const rooms = new Map();

function join(name, socket) {
  const room = rooms.get(name) ?? rooms.set(name, new Set()).get(name);
  room.add(socket);
  socket.on("error", () => {});
  socket.on("message", (message, isBinary) => {
    for (const member of room) member.send(message, { binary: isBinary });
  });
  socket.on("close", () => {
    room.delete(socket);
    if (room.size === 0) rooms.delete(name);
  });
}

const server = createServer((_, response) => response.writeHead(400).end("open a WebSocket on /room/NAME\n"));
const upgrades = new WebSocketServer({ noServer: true, perMessageDeflate: false });
server.on("upgrade", (request, socket, head) => {
  const [, name] = request.url.split("/room/");
  if (!name) return socket.destroy();
  upgrades.handleUpgrade(request, socket, head, (member) => join(name, member));
});
server.listen(Number(process.env.PORT ?? 7000), "127.0.0.1", 4096, () => {
  const { address, port } = server.address();
  console.log(`listening on ${address}:${port}`);
});
