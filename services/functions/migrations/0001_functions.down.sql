DROP TABLE functions.sealing_key;
DROP TABLE functions.secrets;
DROP TABLE functions.versions;
