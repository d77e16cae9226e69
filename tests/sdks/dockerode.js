// What one does with dockerode. DOCKER_HOST says where the daemon is.
const assert = require('assert');
const { PassThrough } = require('stream');
const Docker = require('dockerode');

const docker = new Docker({ socketPath: process.env.DOCKER_HOST.replace('unix://', '') });

function collector() {
  const stream = new PassThrough();
  stream.text = '';
  stream.on('data', (data) => (stream.text += data));
  return stream;
}

const end = (stream) => new Promise((resolve, reject) => stream.on('end', resolve).on('error', reject));

async function runs() {
  const out = collector();
  const [status, container] = await docker.run('busybox', ['sh', '-c', 'echo hello; exit 3'], out, { Tty: true });
  assert.strictEqual(status.StatusCode, 3);
  assert.strictEqual(out.text, 'hello\r\n');
  await container.remove();
  await assert.rejects(docker.getContainer('nobody').inspect(), (error) => {
    assert.strictEqual(error.statusCode, 404);
    assert.match(error.message, /No such container: nobody/);
    return true;
  });
}

async function execs(box) {
  const exec = await box.exec({
    Cmd: ['sh', '-c', 'cat; echo err >&2'], AttachStdin: true, AttachStdout: true, AttachStderr: true,
  });
  const stream = await exec.start({ hijack: true, stdin: true });
  const [out, err] = [collector(), collector()];
  docker.modem.demuxStream(stream, out, err);
  stream.write('in\n');
  stream.end();
  await end(stream);
  assert.deepStrictEqual([out.text, err.text], ['in\n', 'err\n']);
  assert.strictEqual((await exec.inspect()).ExitCode, 0);
  // Without an upgrade it is an ordinary response.
  const plain = await (await box.exec({ Cmd: ['echo', 'plain'], AttachStdout: true })).start({});
  const text = collector();
  plain.pipe(text);
  await end(plain);
  assert.strictEqual(text.text, '\x01\0\0\0\0\0\0\x06plain\n');
}

async function life() {
  const box = await docker.createContainer({ Image: 'busybox', Cmd: ['sh', '-c', 'echo begun; exec sleep 1000'], name: 'box' });
  const attached = await box.attach({ stream: true, stdout: true });
  const out = collector();
  docker.modem.demuxStream(attached, out, out);
  await box.start();
  while (out.text === '') await new Promise((resolve) => setTimeout(resolve, 5));
  assert.strictEqual(out.text, 'begun\n');
  await execs(box);
  assert.strictEqual((await box.stats({ stream: false })).name, '/box');
  assert.strictEqual((await box.inspect()).State.Running, true);
  await box.stop({ t: 0 });
  await box.remove();
}

async function events() {
  const stream = await docker.getEvents({ since: 1, until: Math.ceil(Date.now() / 1000) });
  const text = collector();
  stream.pipe(text);
  await end(stream);
  const actions = text.text.trim().split('\n').map((line) => JSON.parse(line).Action);
  assert.ok(actions.includes('start') && actions.includes('destroy'), actions);
}

async function all() {
  assert.strictEqual((await docker.version()).ApiVersion, '1.50');
  await runs();
  await life();
  await events();
  const volume = await docker.createVolume({ Name: 'data' });
  assert.deepStrictEqual((await docker.listVolumes()).Volumes.map((found) => found.Name), ['data']);
  await volume.remove();
  const network = await docker.createNetwork({ Name: 'shop' });
  assert.strictEqual((await network.inspect()).Name, 'shop');
  await network.remove();
  assert.deepStrictEqual((await docker.listImages()).map((image) => image.RepoTags), [['busybox:latest']]);
  assert.ok((await docker.df()).LayersSize > 0);
}

all().catch((error) => {
  console.error(error);
  process.exit(1);
});
