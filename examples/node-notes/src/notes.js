// Notes in memory: enough to see that the service keeps its state as long as its container lives.
export class Notes {
  #texts = [];

  add(text) {
    if (typeof text !== 'string' || text.trim() === '') throw new TypeError('a note needs a text');
    this.#texts.push(text.trim());
    return { id: this.#texts.length, text: text.trim() };
  }

  all() {
    return this.#texts.map((text, index) => ({ id: index + 1, text }));
  }
}
