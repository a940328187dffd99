// The search of a page that was opened from the disk: browsers allow no Worker there, so what it
// would run runs in a hidden frame. (The offline plugin would take such a script from the network.)
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inside.document.createElement("script");
      script.src = new URL(url, location);
      this.ready = new Promise((loaded) => (script.onload = loaded));
      inside.document.body.append(script);
      this.postMessage = (data) =>
        this.ready.then(() => inside.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
