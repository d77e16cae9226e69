throw new Error('a test is no part of the service');
