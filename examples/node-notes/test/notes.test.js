import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Notes } from '../src/notes.js';

test('notes are numbered in order', () => {
  const notes = new Notes();
  notes.add('milk');
  notes.add(' bread ');
  assert.deepEqual(notes.all(), [{ id: 1, text: 'milk' }, { id: 2, text: 'bread' }]);
});

test('a note needs a text', () => assert.throws(() => new Notes().add(' '), TypeError));
