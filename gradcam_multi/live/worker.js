// Runs the model beside the page, so that the page stays alive while it computes. A page from the
// disk may start no worker that is a module, nor import what another made: so this is none, and
// makes its own address of the runtime's script.
let ort, session;

const jobs = {
  async load({ script, wasm, model, threads }) {
    ort = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = threads;
    session = await ort.InferenceSession.create(new Uint8Array(model), {
      executionProviders: ["wasm"], logSeverityLevel: 3,
    });
    return { inputs: session.inputMetadata, outputs: session.outputNames };
  },
  async run({ feeds, wanted }) {
    const tensors = Object.fromEntries(
      feeds.map(({ name, type, data, shape }) => [name, new ort.Tensor(type, data, shape)]));
    const found = await session.run(tensors, wanted);
    return Object.fromEntries(wanted.map((name) => [name, { data: found[name].data, dims: found[name].dims }]));
  },
};

onmessage = async ({ data: { id, job, ...given } }) => {
  try {
    postMessage({ id, found: await jobs[job](given) });
  } catch (error) {
    postMessage({ id, error: String((error && error.message) || error) });
  }
};
