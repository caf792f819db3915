// Prints each event of a stream of server-sent events as one line. The library opens the stream again by itself.
import { EventSource } from "eventsource";

const stream = new EventSource(process.argv[2]);
stream.onopen = () => console.log("OPEN");
stream.onmessage = ({ data }) => console.log(data);
stream.addEventListener("end", ({ data }) => console.log(data));
stream.onerror = ({ code }) => {
  // The library gives up on an answer that is not a stream.
  if (stream.readyState === EventSource.CLOSED) {
    console.log(`CLOSED ${code}`);
    process.exit(1);
  }
};
