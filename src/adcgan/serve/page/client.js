// Talks to the service: one function for each address, errors as messages for people.

const RETRIES = 5;

/** What went wrong, and whether the same request may succeed later. */
export class ServiceError extends Error {
  constructor(message, status, { again = false, images = null } = {}) {
    super(message);
    this.status = status;
    this.again = again;
    this.images = images;
  }
}

export class Client {
  /** @param {(wrong: boolean) => Promise<string>} askForKey called when the service wants a key */
  constructor(askForKey) {
    this.askForKey = askForKey;
    this.asking = null;
    this.key = sessionStorage.getItem("adcgan-key");
  }

  /** What the service says of its model and limits. */
  async model() {
    return (await this.ask("v1/model", {})).json();
  }

  /** What the service warns of: its last images are unlike those learned from. Empty for nothing. */
  async warning() {
    return (await (await this.ask("v1/drift", {})).json()).warning ?? "";
  }

  /** Score files; the answer has a row for each, in order. */
  async score(files, names, { heatmaps, signal }) {
    const body = () => {
      const form = new FormData();
      files.forEach((file, i) => form.append("file", file, names[i]));
      return form;
    };
    const query = heatmaps ? "?heatmap=layers" : "";
    const response = await this.ask(`v1/score${query}`, { method: "POST", body, signal });
    return response.json();
  }

  async ask(address, { body, ...options }) {
    for (let attempt = 0; ; attempt += 1) {
      const used = this.key;
      const headers = used ? { "X-API-Key": used } : {};
      let response;
      try {
        response = await fetch(address, { ...options, headers, body: body?.() });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ServiceError("The service cannot be reached, or a file cannot be read", 0, { again: true });
      }
      if (response.ok) return response;
      if (response.status === 401) {
        await this.renewKey(used);
      } else if (response.status === 503 && attempt < RETRIES) {
        await pause(Number(response.headers.get("Retry-After") ?? 1), options.signal);
      } else {
        throw await failure(response);
      }
    }
  }

  /** Ask for a key once, however many requests were refused with the old one. */
  async renewKey(refused) {
    if (this.key !== refused) return;
    this.asking ??= this.askForKey(refused !== null);
    this.key = await this.asking;
    this.asking = null;
    sessionStorage.setItem("adcgan-key", this.key);
  }
}

async function failure(response) {
  let answer = {};
  try {
    answer = await response.json();
  } catch {
    // A proxy in between may answer anything.
  }
  const message = answer.error ?? `The service answers ${response.status}`;
  const again = response.status === 408 || response.status >= 500;
  return new ServiceError(message, response.status, { again, images: answer.images });
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}
