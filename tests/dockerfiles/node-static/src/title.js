export const title = (day) => `A page of ${day.getFullYear()}`;
