/* Starts. */
console.log("started");
