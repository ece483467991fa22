// In place of what node-postgres requires and a Worker has no use for: password files, types of rows, URLs, host names.
module.exports = { getTypeParser: () => undefined };
