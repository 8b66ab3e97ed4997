DROP TABLE keys.directory_failures;
DROP TABLE keys.directory_refresh;
DROP TABLE keys.directory_rules;
DROP TABLE keys.directory_applications;
DROP TABLE keys.directory_users;
