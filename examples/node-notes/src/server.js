import express from 'express';
import { Notes } from './notes.js';

const notes = new Notes();
const app = express();
app.disable('x-powered-by');
app.use(express.json());

app.get('/healthz', (_, answer) => answer.send('ok'));
app.get('/notes', (_, answer) => answer.json(notes.all()));
app.post('/notes', (request, answer) => {
  try {
    answer.status(201).json(notes.add(request.body?.text));
  } catch (error) {
    answer.status(400).json({ error: error.message });
  }
});

const server = app.listen(process.env.PORT ?? 8080);
process.on('SIGTERM', () => server.close());
