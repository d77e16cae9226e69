// A service in a container, for the length of a test: Testcontainers for Node.js.
const assert = require('assert');
const { GenericContainer, Wait } = require('testcontainers');

const SERVICE = 'mkdir w; echo hello > w/index.html; httpd -p 80 -h w; echo ready; sleep 1000';

async function all() {
  const service = await new GenericContainer('busybox')
    .withCommand(['sh', '-c', SERVICE])
    .withExposedPorts(80)
    .withCopyContentToContainer([{ content: 'copied', target: '/tmp/file' }])
    .withWaitStrategy(Wait.forLogMessage('ready'))
    .start();
  const answer = await fetch(`http://${service.getHost()}:${service.getMappedPort(80)}/`);
  assert.strictEqual(await answer.text(), 'hello\n');
  const read = await service.exec(['cat', '/tmp/file']);
  assert.deepStrictEqual([read.exitCode, read.output], [0, 'copied']);
  await service.stop();
}

all().catch((error) => {
  console.error(error);
  process.exit(1);
});
