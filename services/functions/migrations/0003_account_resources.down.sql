DROP TABLE functions.object_keys;
DROP TABLE functions.doomed_objects;
DROP TABLE functions.assets;
DROP TABLE functions.registry_credentials;
DROP TABLE functions.telemetries;
