const { format } = require('@shop/money');
const { createServer } = require('node:http');
createServer((_, answer) => answer.end('orders ' + format(1999))).listen(process.env.PORT);
