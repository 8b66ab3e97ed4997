DROP TABLE deployments.devices;
DROP TABLE deployments.instances;
DROP TABLE deployments.specifications;
DROP TABLE deployments.deployments;
