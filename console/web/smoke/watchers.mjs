/** Watchers made by hand, because those of a library always answer pings. */

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";

/** A watcher of a consumer's providers, which answers no ping before it is woken. */
export class Watcher {
  static async open(server, serviceId, { awake = true, token } = {}) {
    const watcher = new Watcher();
    const { hostname, port, host } = new URL(server);
    watcher.socket = connect({ host: hostname, port });
    watcher.awake = awake;
    watcher.bytes = Buffer.alloc(0);
    watcher.pings = [];
    watcher.socket.on("error", () => {});
    await once(watcher.socket, "connect");
    const lines = [
      `GET /v4/default/registry/microservices/${serviceId}/watcher HTTP/1.1`,
      `Host: ${host}`,
      "Upgrade: websocket",
      "Connection: Upgrade",
      "Sec-WebSocket-Version: 13",
      `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}`,
    ];
    if (token) lines.push(`Authorization: Bearer ${token}`);
    watcher.socket.write(`${lines.join("\r\n")}\r\n\r\n`);
    const [answer] = await once(watcher.socket, "data");
    const end = answer.indexOf("\r\n\r\n") + 4;
    const head = answer.subarray(0, end).toString();
    if (!head.startsWith("HTTP/1.1 101")) throw new Error(`the watch was refused: ${answer}`);
    watcher.take(answer.subarray(end));
    watcher.socket.on("data", (bytes) => watcher.take(bytes));
    return watcher;
  }

  take(bytes) {
    this.bytes = Buffer.concat([this.bytes, bytes]);
    for (;;) {
      if (this.bytes.length < 2) return;
      const short = this.bytes[1] & 0x7f;
      const head = short === 126 ? 4 : short === 127 ? 10 : 2;
      if (this.bytes.length < head) return;
      const size = short === 126 ? this.bytes.readUInt16BE(2) : short === 127 ? Number(this.bytes.readBigUInt64BE(2)) : short;
      if (this.bytes.length < head + size) return;
      const opcode = this.bytes[0] & 0x0f;
      const payload = Buffer.from(this.bytes.subarray(head, head + size));
      this.bytes = this.bytes.subarray(head + size);
      if (opcode === 9) this.pings.push(payload);
      if (this.awake) this.answer();
    }
  }

  answer() {
    for (const payload of this.pings.splice(0)) {
      // A mask of zeros leaves the payload as it is.
      this.socket.write(Buffer.concat([Buffer.from([0x8a, 0x80 | payload.length, 0, 0, 0, 0]), payload]));
    }
  }

  wake() {
    this.awake = true;
    this.answer();
  }

  close() {
    this.socket.destroy();
  }
}
