import { createServer, type ServerResponse } from 'node:http';
import { createColors } from 'picocolors';

const colors = createColors(false);

function greet(answer: ServerResponse, name: string): void {
  answer.setHeader('content-type', 'text/plain').end(colors.bold(`hello, ${name} (${process.env.npm_package_version ?? process.env.VERSION})`));
}

createServer((request, answer) => greet(answer, decodeURIComponent(request.url?.slice(1) || 'nobody'))).listen(3000);
