// Server-sent events of a response, which EventSource cannot read because it does not send the key.

export type ServerEvent = { id: string; name: string; data: string };

/** Yields the events of `response` until it ends. */
export async function* events(response: Response): AsyncGenerator<ServerEvent> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let event: ServerEvent = { id: "", name: "message", data: "" };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const lines = text.split(/\r\n|\n|\r(?!$)/);
      text = lines.pop()!;
      for (const line of lines) {
        if (line === "") {
          if (event.data) yield event;
          event = { id: event.id, name: "message", data: "" };
          continue;
        }
        const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line)!;
        if (field === "data") event.data += event.data ? `\n${content}` : content;
        else if (field === "event") event.name = content;
        else if (field === "id") event.id = content;
      }
    }
  } finally {
    void reader.cancel().catch(() => {});
  }
}
