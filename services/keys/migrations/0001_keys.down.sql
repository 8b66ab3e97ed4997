DROP TABLE keys.signing_keys;
DROP TABLE keys.secrets;
DROP TABLE keys.keys;
DROP TABLE keys.owners;
DROP TABLE keys.clients;
DROP TABLE keys.services;
